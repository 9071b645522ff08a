"""Recipes on other people's trainers, and their runs as ordinary run directories."""
