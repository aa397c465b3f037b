# Finds what thaw links with. LibTorch and Arrow come from, in this order: Torch_DIR / Arrow_DIR (a LibTorch archive or an
# installed Arrow), else the Python environment's torch and pyarrow wheels. find_package(Torch) is not used: it drags in all
# CUDA libraries and refuses to configure without a toolkit.
find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)

set(THAW_INSTALL_HINT "scripts/test and scripts/demo install it; by hand: see README.md, 'Build it yourself'.")

if(NOT Python3_EXECUTABLE AND DEFINED ENV{THAW_PYTHON})
  set(Python3_EXECUTABLE $ENV{THAW_PYTHON})
endif()
find_package(Python3 3.10 COMPONENTS Interpreter)

function(thaw_wheel_dir out wheel)
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

# --- LibTorch ---
if(Torch_DIR OR DEFINED ENV{Torch_DIR})
  if(NOT Torch_DIR)
    set(Torch_DIR $ENV{Torch_DIR})
  endif()
  get_filename_component(THAW_TORCH_ROOT "${Torch_DIR}/../../.." ABSOLUTE)
else()
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
  target_link_options(thaw::torch INTERFACE LINKER:--no-as-needed LINKER:--allow-shlib-undefined)
endif()

# --- Arrow and Parquet ---
if(Arrow_DIR OR DEFINED ENV{Arrow_DIR})
  find_package(Arrow REQUIRED)
  find_package(Parquet REQUIRED)
  add_library(thaw::parquet INTERFACE IMPORTED GLOBAL)
  target_link_libraries(thaw::parquet INTERFACE Parquet::parquet_shared Arrow::arrow_shared)
else()
  thaw_wheel_dir(THAW_PYARROW_ROOT pyarrow)
  if(NOT EXISTS "${THAW_PYARROW_ROOT}/include/arrow/util/config.h")
    message(FATAL_ERROR "Arrow C++ not found: neither Arrow_DIR nor the Python environment's pyarrow "
      "('${Python3_EXECUTABLE}'). ${THAW_INSTALL_HINT}")
  endif()
  file(STRINGS "${THAW_PYARROW_ROOT}/include/arrow/util/config.h" arrow_so REGEX "define ARROW_SO_VERSION")
  string(REGEX REPLACE ".*\"([0-9]+)\".*" "\\1" arrow_so "${arrow_so}")
  foreach(lib arrow parquet)
    add_library(thaw::${lib} SHARED IMPORTED GLOBAL)
    set_target_properties(thaw::${lib} PROPERTIES
      IMPORTED_LOCATION "${THAW_PYARROW_ROOT}/lib${lib}.so.${arrow_so}"
      IMPORTED_SONAME "lib${lib}.so.${arrow_so}"
      INTERFACE_INCLUDE_DIRECTORIES "${THAW_PYARROW_ROOT}/include")
  endforeach()
  set_property(TARGET thaw::parquet PROPERTY INTERFACE_LINK_LIBRARIES thaw::arrow)
endif()

# --- the distribution's libraries ---
find_package(fmt REQUIRED)
find_package(spdlog REQUIRED)
find_package(nlohmann_json 3.11 REQUIRED)
find_package(OpenSSL REQUIRED COMPONENTS Crypto)
find_package(tomlplusplus REQUIRED)
find_package(CLI11 REQUIRED)
pkg_check_modules(THAW_FFMPEG REQUIRED IMPORTED_TARGET libavformat libavcodec libavutil libswscale)
pkg_check_modules(THAW_SENTENCEPIECE REQUIRED IMPORTED_TARGET sentencepiece)
pkg_check_modules(THAW_PCRE2 REQUIRED IMPORTED_TARGET libpcre2-8)
