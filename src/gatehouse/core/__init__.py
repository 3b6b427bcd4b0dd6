"""The vocabulary of Gatehouse: frozen typed values, money, errors, the permission table and the ports. No I/O."""
