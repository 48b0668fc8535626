"""What the HTTP APIs of producers and listeners share: serving, problems, access control, health."""
