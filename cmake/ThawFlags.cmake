# Language, warnings, sanitizers and hardening: the same for every target, so that one precompiled header serves all.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_INSTALL_RPATH_USE_LINK_PATH ON)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()

find_program(THAW_CCACHE ccache)
if(THAW_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  # ccache must be told that a precompiled header may stand for its sources; depend mode spares it a run of the preprocessor,
  # and paths below the base directory are taken relative to it, so that clones share what they compiled.
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env CCACHE_DEPEND=1 CCACHE_BASEDIR=${PROJECT_SOURCE_DIR}
    CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime)
  # The folder that debug information names matters to a debugger, not to the reports of sanitizers.
  if(THAW_SANITIZE)
    list(APPEND CMAKE_CXX_COMPILER_LAUNCHER CCACHE_NOHASHDIR=1)
  endif()
  list(APPEND CMAKE_CXX_COMPILER_LAUNCHER ${THAW_CCACHE})
endif()

add_library(thaw_flags INTERFACE)
target_compile_options(thaw_flags INTERFACE
  -fPIC -Wall -Wextra -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual -Wno-psabi -Wno-missing-field-initializers
  # The sanitizers' instrumentation makes g++ 12 see uninitialised values in std::regex: there, warnings stay warnings.
  $<$<AND:$<BOOL:${THAW_WERROR}>,$<NOT:$<BOOL:${THAW_SANITIZE}>>>:-Werror>
  # g++ 12 sees an overlap in every "literal" + std::string (GCC bug 105651).
  "$<$<CXX_COMPILER_ID:GNU>:-fpch-preprocess;-Wno-restrict>")
if(THAW_SANITIZE)
  target_compile_options(thaw_flags INTERFACE
    -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(thaw_flags INTERFACE -fsanitize=address,undefined)
else()
  target_compile_options(thaw_flags INTERFACE -fstack-protector-strong $<$<CONFIG:Release>:-D_FORTIFY_SOURCE=2>)
  target_link_options(thaw_flags INTERFACE LINKER:-z,relro,-z,now)
endif()
