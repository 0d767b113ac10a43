"""The platform's main job from transactions to a promoted challenger and back, on one machine."""
