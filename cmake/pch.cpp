// Compiled once so that every room can reuse the precompiled header.
