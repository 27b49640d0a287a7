-- How many alerts wait for a receiver.
SELECT count(*)
FROM slate.alert_deliveries
WHERE receiver = %(receiver)s AND state = 'pending'
