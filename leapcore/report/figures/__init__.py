"""Drawings as SVG elements that stand in the page itself; matplotlib is imported when the first is drawn."""
