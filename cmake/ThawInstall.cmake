# cmake --install: the library, its headers, the command, and a package for find_package(thaw).
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
set(THAW_PACKAGE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/thaw)

install(TARGETS thaw EXPORT thawTargets LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY include/thaw DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h")
if(TARGET thaw_cli)
  set_target_properties(thaw_cli PROPERTIES INSTALL_RPATH "$ORIGIN/../${CMAKE_INSTALL_LIBDIR}")
  install(TARGETS thaw_cli RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()

install(EXPORT thawTargets NAMESPACE thaw:: DESTINATION ${THAW_PACKAGE_DIR})
configure_package_config_file(cmake/thawConfig.cmake.in ${PROJECT_BINARY_DIR}/thawConfig.cmake
  INSTALL_DESTINATION ${THAW_PACKAGE_DIR})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/thawConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES cmake/ThawTorch.cmake ${PROJECT_BINARY_DIR}/thawConfig.cmake ${PROJECT_BINARY_DIR}/thawConfigVersion.cmake
  DESTINATION ${THAW_PACKAGE_DIR})
