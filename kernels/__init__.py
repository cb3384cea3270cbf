"""Pure tensor functions: interval attention, grouped linear and norm, jagged tensors."""
