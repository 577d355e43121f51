"""What a job is: its file, its states, what follows an attempt. Values and rules; knows no store and no process."""
