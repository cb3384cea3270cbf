"""Pure tensor functions: interval attention and grouped linear."""
