// Compiled once so that every test can reuse the precompiled header.
