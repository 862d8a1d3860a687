"""Does pretraining pay? Fine-tuned accuracy by share of the labels, with and without FCMAE pretraining."""
