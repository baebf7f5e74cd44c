"""Thin WebSocket endpoints."""
