-- Forget what a budget has spent: it is counted anew.
DELETE FROM slate.alert_budgets
WHERE stream = %(stream)s AND rule = %(rule)s
