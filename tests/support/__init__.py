"""What tests share: a lab with vendors, a broker in its own process, and tables of every type."""
