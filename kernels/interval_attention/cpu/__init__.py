"""Interval attention on the CPU in C++: sources, how they are built, how they are called."""
