"""What a run says of itself: events for programs, lines for people, numbers for other tools. Decides nothing."""
