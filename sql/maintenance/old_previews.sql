-- Some of the previews that are older than they are kept; of each the picture, if no other preview refers to it.
WITH old AS (
    SELECT
        id,
        frame_ref
    FROM public.spark_previews
    WHERE ts < %(before)s
    ORDER BY ts
    LIMIT %(most)s
)

SELECT
    id,
    CASE
        WHEN
            frame_ref IN (
                SELECT p.frame_ref
                FROM public.spark_previews AS p
                WHERE p.frame_ref IN (SELECT o.frame_ref FROM old AS o) AND p.id NOT IN (SELECT o.id FROM old AS o)
            )
            THEN NULL
        ELSE frame_ref
    END AS frame_ref
FROM old
