# Adds to what is packed that which only a package has: the configuration, the licence where Debian looks for it. Run by CPack.
set(root ${CPACK_TEMPORARY_INSTALL_DIRECTORY})
file(INSTALL ${CPACK_KVANT_SOURCE_DIR}/tools/systemd/kvantd.toml DESTINATION ${root}/etc/kvant)
file(INSTALL ${CPACK_KVANT_SOURCE_DIR}/LICENSE DESTINATION ${root}/usr/share/doc/kvant RENAME copyright)
file(REMOVE ${root}/usr/share/doc/kvant/LICENSE)
file(GLOB pages ${root}/usr/share/man/man*/*)
foreach(page IN LISTS pages)
  execute_process(COMMAND gzip -9nf ${page} COMMAND_ERROR_IS_FATAL ANY)
endforeach()
