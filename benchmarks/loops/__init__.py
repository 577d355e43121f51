"""The training loops whose peaks were measured and published, as plain torch: what `make bench-footprint` traces.

Written anew from each publication's description of its model and loop; a loop's function gives the model and a step.
What is held from one step to the next matters as much as what is computed, so each says what its loop keeps.
"""
