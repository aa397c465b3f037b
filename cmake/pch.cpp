// Compiled once so that every room can reuse a precompiled header.
