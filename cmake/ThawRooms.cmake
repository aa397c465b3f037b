# Rooms: one object library each, and a room sees only the headers of the rooms it names. The public headers of all rooms
# lie in one tree (include/thaw/<room>), so each room gets an include folder of links to just the rooms it may use: a wrong
# #include does not compile.
#
# The presets compile a dozen files of a room as one (CMAKE_UNITY_BUILD), which takes less than half the time. So a name
# of an anonymous namespace is that of one file of its room only; tests have a namespace for each file.

# Two precompiled headers: of tensors, and of operators and modules besides. Named in angle brackets, so that no path of this
# tree is in them and a compiler cache finds them again from another clone.
function(thaw_precompiled_header target header)
  add_library(${target} OBJECT ${PROJECT_SOURCE_DIR}/cmake/pch.cpp)
  target_include_directories(${target} PRIVATE ${CMAKE_CURRENT_SOURCE_DIR} ${PROJECT_SOURCE_DIR})
  target_precompile_headers(${target} PRIVATE <${header}>)
  target_link_libraries(${target} PRIVATE thaw_flags thaw::torch fmt::fmt nlohmann_json::nlohmann_json ${ARGN})
endfunction()
function(thaw_reuse_header target plain_header module_header wants_modules)
  if(wants_modules)
    target_precompile_headers(${target} REUSE_FROM ${module_header})
  else()
    target_precompile_headers(${target} REUSE_FROM ${plain_header})
  endif()
endfunction()

thaw_precompiled_header(thaw_pch cmake/pch.h)
thaw_precompiled_header(thaw_module_pch cmake/module_pch.h)

# thaw_room(NAME [TORCH | MODULES] [SOURCES ...] [SEES room ...] [LINKS lib ...])
function(thaw_room name)
  cmake_parse_arguments(room "TORCH;MODULES" "" "SOURCES;SEES;LINKS" ${ARGN})
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
  if(room_TORCH OR room_MODULES)
    target_link_libraries(thaw_${name} PRIVATE thaw::torch)
    thaw_reuse_header(thaw_${name} thaw_pch thaw_module_pch ${room_MODULES})
  endif()
  set_property(GLOBAL APPEND PROPERTY THAW_ROOMS ${name})
  set_property(GLOBAL PROPERTY THAW_ROOM_SEES_${name} ${room_SEES})
  set_property(GLOBAL PROPERTY THAW_ROOM_LINKS_${name} ${room_LINKS})
endfunction()
