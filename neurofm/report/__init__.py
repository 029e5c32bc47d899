"""`neurofm report`: curves, tables and pictures in one HTML page."""
