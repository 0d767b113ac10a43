"""Values of external views that applications push, stored until training's table has them."""
