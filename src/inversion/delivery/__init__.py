"""What runs by itself: messages and timers on their way to entities."""
