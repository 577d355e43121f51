"""From files of text to the rows of each optimizer step."""
