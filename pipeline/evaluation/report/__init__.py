"""One HTML file about a folder of rows, readable without a network."""
