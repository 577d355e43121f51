"""What starts and looks after trainers: claims an attempt, spawns its shim, adopts what a dead shim has left."""
