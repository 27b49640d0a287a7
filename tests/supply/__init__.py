"""What this project is made of and how that is checked: bill of materials, advisories, house rules (`make audit`)."""
