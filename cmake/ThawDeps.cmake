# Finds what thaw links with. LibTorch and Arrow come from Torch_DIR / Arrow_DIR, else from the Python environment's torch and
# pyarrow wheels (Arrow C++ is in no Debian package); everything else from the distribution.
find_package(PkgConfig REQUIRED)
include(ThawTorch)

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
