"""The processes that train one run together, as torchrun starts them."""
