# Defines thaw::torch (LibTorch for a program that needs no CUDA library at run time). Used by thaw's own build and, installed
# beside thawConfig.cmake, by programs that link thaw.
#
# LibTorch is found from, in this order: Torch_DIR (variable or environment; the share/cmake/Torch folder of a LibTorch
# archive), THAW_TORCH_ROOT (what thaw was built with), the Python environment's torch wheel (Python3_EXECUTABLE or THAW_PYTHON).
# find_package(Torch) is not used: it drags in all CUDA libraries and refuses to configure without a toolkit.
find_package(Threads REQUIRED)

set(THAW_INSTALL_HINT "scripts/test and scripts/demo install it; by hand: see README.md, 'Build it yourself'.")

# thaw_wheel_dir(OUT WHEEL): folder of an installed Python package, found without importing it; empty when absent.
function(thaw_wheel_dir out wheel)
  if(NOT Python3_EXECUTABLE AND DEFINED ENV{THAW_PYTHON})
    set(Python3_EXECUTABLE $ENV{THAW_PYTHON})
  endif()
  find_package(Python3 3.10 QUIET COMPONENTS Interpreter)
  set(dir "")
  if(Python3_Interpreter_FOUND)
    execute_process(COMMAND ${Python3_EXECUTABLE} -c
      "import importlib.util as u;print(u.find_spec('${wheel}').submodule_search_locations[0])"
      OUTPUT_VARIABLE dir OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE rc ERROR_QUIET)
    if(NOT rc EQUAL 0)
      set(dir "")
    endif()
  endif()
  set(${out} "${dir}" PARENT_SCOPE)
endfunction()

if(NOT Torch_DIR AND DEFINED ENV{Torch_DIR})
  set(Torch_DIR $ENV{Torch_DIR})
endif()
if(Torch_DIR)
  get_filename_component(THAW_TORCH_ROOT "${Torch_DIR}/../../.." ABSOLUTE)
elseif(NOT EXISTS "${THAW_TORCH_ROOT}/lib/libtorch_cpu.so")
  thaw_wheel_dir(THAW_TORCH_ROOT torch)
endif()
if(NOT EXISTS "${THAW_TORCH_ROOT}/lib/libtorch_cpu.so")
  message(FATAL_ERROR "LibTorch 2.11 not found: neither Torch_DIR ('${Torch_DIR}') nor the Python environment "
    "('${Python3_EXECUTABLE}') holds lib/libtorch_cpu.so. ${THAW_INSTALL_HINT}")
endif()

if(NOT TARGET thaw::torch)
  foreach(lib c10 torch_cpu)
    add_library(thaw_dep_${lib} SHARED IMPORTED GLOBAL)
    set_target_properties(thaw_dep_${lib} PROPERTIES IMPORTED_LOCATION "${THAW_TORCH_ROOT}/lib/lib${lib}.so")
  endforeach()
  add_library(thaw::torch INTERFACE IMPORTED GLOBAL)
  # -idirafter: the wheel carries fmt, protobuf and pybind11 headers that must not shadow the system's.
  target_compile_options(thaw::torch INTERFACE
    "$<$<COMPILE_LANGUAGE:CXX>:SHELL:-idirafter ${THAW_TORCH_ROOT}/include>"
    "$<$<COMPILE_LANGUAGE:CXX>:SHELL:-idirafter ${THAW_TORCH_ROOT}/include/torch/csrc/api/include>")
  target_link_libraries(thaw::torch INTERFACE thaw_dep_torch_cpu thaw_dep_c10 Threads::Threads)
  # The CUDA wheel's libtorch_cpu names two small CUDA libraries that need not be there when linking.
  target_link_options(thaw::torch INTERFACE LINKER:--no-as-needed LINKER:--allow-shlib-undefined)
endif()
