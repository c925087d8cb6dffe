"""Configs: fields, bounds, YAML files."""
