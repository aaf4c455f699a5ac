# Adds to what is packed that which only a package has: the configuration, the licence where Debian looks for it. Run by CPack.
set(root ${CPACK_TEMPORARY_INSTALL_DIRECTORY})
# No file(INSTALL): CPack has set DESTDIR, which that puts before `root` once more.
file(MAKE_DIRECTORY ${root}/etc/kvant ${root}/usr/share/doc/kvant)
file(COPY_FILE ${CPACK_KVANT_SOURCE_DIR}/tools/systemd/kvantd.toml ${root}/etc/kvant/kvantd.toml)
file(COPY_FILE ${CPACK_KVANT_SOURCE_DIR}/LICENSE ${root}/usr/share/doc/kvant/copyright)
file(REMOVE ${root}/usr/share/doc/kvant/LICENSE)
file(GLOB pages ${root}/usr/share/man/man*/*)
foreach(page IN LISTS pages)
  execute_process(COMMAND gzip -9nf ${page} COMMAND_ERROR_IS_FATAL ANY)
endforeach()
