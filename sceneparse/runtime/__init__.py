"""What every command needs of the machine it runs on."""
