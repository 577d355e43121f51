"""`make demo`: the whole of mmq on two small virtual devices, with real text and the commands a person types."""
