"""What a tunnel carries, measured: the figures, how they are found and shown. No tunnel is opened here."""
