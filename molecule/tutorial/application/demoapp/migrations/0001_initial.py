from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True
    operations = [
        migrations.CreateModel(
            name="Widget",
            fields=[
                ("id", models.BigAutoField(primary_key=True)),
                ("name", models.CharField(max_length=140)),
            ],
        ),
        migrations.CreateModel(
            name="Run",
            fields=[
                ("id", models.BigAutoField(primary_key=True)),
                ("task", models.CharField(max_length=140)),
                ("uuid", models.CharField(max_length=40)),
                ("queue", models.CharField(max_length=140)),
                ("release", models.CharField(max_length=140)),
                ("at", models.DateTimeField(auto_now_add=True)),
            ],
        ),
    ]
