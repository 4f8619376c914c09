"""Django: what stores do in `atomic()` is one with the rows of its models. In one file, settings included."""

import django
from django.conf import settings
from django.db import connection, models, transaction
from psycopg.conninfo import conninfo_to_dict

import pgstore

where = conninfo_to_dict(pgstore.default_client().connection_url())
database = {"ENGINE": "django.db.backends.postgresql", "NAME": where["dbname"], "USER": where["user"]}
database |= {"PASSWORD": where.get("password", ""), "HOST": where["host"], "PORT": where["port"], "CONN_MAX_AGE": 600}
settings.configure(DATABASES={"default": database}, USE_TZ=True)
django.setup()


class Order(models.Model):
    article = models.CharField(max_length=100)

    class Meta:
        app_label = "example"


mails = pgstore.Queue.persist("django-mails")
receipts = pgstore.Volume.persist("django-receipts")


@transaction.atomic
def place(article: str) -> int:
    """What a view does. With ATOMIC_REQUESTS each has its atomic()."""
    order = Order.objects.create(article=article)
    with pgstore.transaction(connection=connection):
        mails.put({"order": order.pk})
        receipts.write_text(f"/{order.pk}.txt", f"one {article}")
    if article == "nothing":
        raise ValueError("nothing was ordered")
    return order.pk


with connection.schema_editor() as editor:  # a project has migrations
    editor.create_model(Order)
try:
    number = place("lamp")
    try:
        place("nothing")
    except ValueError as exc:
        print(exc)
    print(Order.objects.count(), "order", mails.get_many(10), receipts.read_text(f"/{number}.txt"))
finally:
    with connection.schema_editor() as editor:
        editor.delete_model(Order)
    connection.close()
