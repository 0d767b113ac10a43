"""Values of external views that applications push: kept until training's table has them."""
