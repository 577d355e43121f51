"""One file a revision. Each stands alone: it never imports the models, which go on changing after it."""
