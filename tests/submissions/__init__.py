"""What vendors send back."""
