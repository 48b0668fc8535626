"""What both HTTP faces share: serving, problems, who may call, health."""
