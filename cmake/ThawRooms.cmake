# Rooms: one object library each, and a room sees only the headers of the rooms it names. The public headers of all rooms
# lie in one tree (include/thaw/<room>), so each room gets an include folder of links to just the rooms it may use: a wrong
# #include does not compile.

# One precompiled header for every room that uses Torch (15 s of parsing, once).
add_library(thaw_pch OBJECT ${CMAKE_CURRENT_LIST_DIR}/pch.cpp)
target_precompile_headers(thaw_pch PRIVATE ${CMAKE_CURRENT_LIST_DIR}/pch.h)
target_link_libraries(thaw_pch PRIVATE thaw_flags thaw::torch fmt::fmt nlohmann_json::nlohmann_json)

# thaw_room(NAME [TORCH] [SOURCES ...] [SEES room ...] [LINKS lib ...])
function(thaw_room name)
  cmake_parse_arguments(room "TORCH" "" "SOURCES;SEES;LINKS" ${ARGN})
  if(NOT room_SOURCES)
    return()
  endif()
  add_library(thaw_${name} OBJECT ${room_SOURCES})
  set(view ${CMAKE_BINARY_DIR}/rooms/${name})
  file(REMOVE_RECURSE ${view})
  file(MAKE_DIRECTORY ${view}/thaw)
  foreach(seen ${name} ${room_SEES})
    file(CREATE_LINK ${PROJECT_SOURCE_DIR}/include/thaw/${seen} ${view}/thaw/${seen} SYMBOLIC)
  endforeach()
  target_include_directories(thaw_${name} PRIVATE ${view})
  target_link_libraries(thaw_${name} PRIVATE thaw_flags fmt::fmt nlohmann_json::nlohmann_json ${room_LINKS})
  if(room_TORCH)
    target_link_libraries(thaw_${name} PRIVATE thaw::torch)
    target_precompile_headers(thaw_${name} REUSE_FROM thaw_pch)
  endif()
  set_property(GLOBAL APPEND PROPERTY THAW_ROOMS ${name})
  set_property(GLOBAL PROPERTY THAW_ROOM_SEES_${name} ${room_SEES})
  set_property(GLOBAL PROPERTY THAW_ROOM_LINKS_${name} ${room_LINKS})
endfunction()
