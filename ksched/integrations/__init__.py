"""Other programs' ways to call ksched; each module needs the program it is named for, and nothing else imports it."""
