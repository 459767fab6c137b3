"""Hand-drawn part templates of the sprites, one module a family, and the ramps."""
