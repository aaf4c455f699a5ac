# What `cmake --install` gives a user: the client library with its headers, found by find_package(kvant) or pkg-config.
# Programs install themselves (kvant_program).
include(CMakePackageConfigHelpers)

install(TARGETS kvant_types EXPORT kvantTargets FILE_SET HEADERS)
set_target_properties(kvant_client PROPERTIES
  VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR} EXPORT_NAME client)
install(TARGETS kvant_client EXPORT kvantTargets FILE_SET HEADERS)

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/kvant)
install(EXPORT kvantTargets NAMESPACE kvant:: DESTINATION ${package_dir})
configure_package_config_file(tools/cmake/kvantConfig.cmake.in ${PROJECT_BINARY_DIR}/kvantConfig.cmake INSTALL_DESTINATION ${package_dir})
# Before 1.0 a minor version may change the interface.
write_basic_package_version_file(${PROJECT_BINARY_DIR}/kvantConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/kvantConfig.cmake ${PROJECT_BINARY_DIR}/kvantConfigVersion.cmake DESTINATION ${package_dir})

# Paths in kvant.pc are relative to the file, so that an installed tree may be moved.
file(RELATIVE_PATH prefix_from_pc ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig ${CMAKE_INSTALL_PREFIX})
configure_file(tools/cmake/kvant.pc.in ${PROJECT_BINARY_DIR}/kvant.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/kvant.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
install(FILES README.md LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
