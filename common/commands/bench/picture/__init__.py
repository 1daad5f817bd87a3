"""The bench's pictures: one SVG file, drawn without a plotting library."""
