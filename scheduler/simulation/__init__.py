"""A model of machines and time under the admission cycle. Pure: no store, no device, no clock but its own."""
