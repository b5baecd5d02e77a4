"""The wire: frames of batched messages, and the connections that carry them."""
