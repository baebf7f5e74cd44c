"""Thin REST endpoints."""
