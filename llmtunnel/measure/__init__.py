"""Measure what a tunnel carries: the figures, their measurement and display. No tunnel is opened here."""
