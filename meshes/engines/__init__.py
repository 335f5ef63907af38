"""The engines that carry light through a mesh."""
